"""ONNX operators whose time follows from the shapes of their inputs. A model of nothing else is timed by the
size of its input, and may run where others wait for it.

Whatever is missing here does not count as one: control flow, whatever makes an output of a size that stands
in the data (`Range`, `Expand`, `DFT`, `HannWindow`, `NonZero`, `Unique`), whatever looks at as much as the
data say (`RoiAlign`, `NonMaxSuppression`, lengths of a cache), texts and encoded pictures, and what is not
known.
"""

from __future__ import annotations

from typing import Final

# Of ONNX and its operators for classical machine learning, up to opset 28.
_STANDARD = """
Abs Acos Acosh Add And ArgMax ArgMin ArrayFeatureExtractor Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization Bernoulli Binarizer BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
CastLike CastMap CategoryMapper CausalConvWithState Ceil Celu Clip Concat ConcatFromSequence Constant Conv
ConvInteger ConvTranspose Cos Cosh CumProd CumSum DeformConv DepthToSpace DequantizeLinear Det DictVectorizer
Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp EyeLike FeatureVectorizer Flatten Floor GRU Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity Imputer InstanceNormalization IsInf IsNaN
LRN LSTM LabelEncoder LayerNormalization LeakyRelu Less LessOrEqual LinearAttention LinearClassifier
LinearRegressor Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean
MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss Normalizer Not
OneHotEncoder Optional OptionalGetElement OptionalHasElement Or PRelu Pow QLinearConv QLinearMatMul
QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape ReverseSequence RotaryEmbedding Round SVMClassifier SVMRegressor Scaler Scatter
ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign
SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh TensorScatter ThresholdedRelu
TopK Transpose TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor Trilu Unsqueeze Where Xor ZipMap
"""
# Those that onnxruntime's own optimizer and quantizer write into a file.
_OF_ONNXRUNTIME = """
BiasAdd BiasGelu BiasSoftmax BiasSplitGelu DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization
FastGelu FusedConv FusedGemm FusedMatMul MatMulIntegerToFloat MatMulNBits MultiHeadAttention NhwcConv
NhwcMaxPool QAttention QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool
QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QuickGelu
SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization
"""

TIMED_BY_SHAPE: Final = frozenset((_STANDARD + _OF_ONNXRUNTIME).split())
