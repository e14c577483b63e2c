"""ONNX operators whose time follows from the shapes of their inputs, and from the sizes that some of them
take as values. A model of nothing else, whose sizes all follow from constants and shapes, is timed by the
size of its input, and may run where others wait for it.

Whatever is missing here does not count as one: control flow, whatever looks at as much as the data say
without an input for just that (`RoiAlign`, `NonMaxSuppression`), texts and encoded pictures, and what is not
known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Of ONNX and its operators for classical machine learning, up to opset 28.
_STANDARD = """
Abs Acos Acosh Add And ArgMax ArgMin ArrayFeatureExtractor Asin Asinh Atan Atanh AveragePool
BatchNormalization Bernoulli Binarizer BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
CastLike CastMap CategoryMapper CausalConvWithState Ceil Celu Clip Concat ConcatFromSequence Constant Conv
ConvInteger ConvTranspose Cos Cosh CumProd CumSum DeformConv DepthToSpace DequantizeLinear Det DictVectorizer
Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp EyeLike FeatureVectorizer Flatten Floor Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity Imputer InstanceNormalization IsInf IsNaN
LRN LabelEncoder LayerNormalization LeakyRelu Less LessOrEqual LinearAttention LinearClassifier
LinearRegressor Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean
MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss Normalizer Not
OneHotEncoder Optional OptionalGetElement OptionalHasElement Or PRelu Pow QLinearConv QLinearMatMul
QuantizeLinear RMSNormalization RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal
Relu ReverseSequence RotaryEmbedding Round SVMClassifier SVMRegressor Scaler Scatter
ScatterElements ScatterND Selu SequenceConstruct SequenceEmpty SequenceLength Shape Shrink Sigmoid Sign Sin
Sinh Size Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Sqrt Sub Sum SwiGLU Swish Tan Tanh
TensorScatter ThresholdedRelu Transpose TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor Trilu Where
Xor ZipMap
"""
# Those that onnxruntime's own optimizer and quantizer write into a file.
_OF_ONNXRUNTIME = """
BiasAdd BiasGelu BiasSoftmax BiasSplitGelu DynamicQuantizeMatMul EmbedLayerNormalization
FastGelu FusedConv FusedGemm FusedMatMul MatMulIntegerToFloat MatMulNBits NhwcConv
NhwcMaxPool QAttention QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool
QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QuickGelu
SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
# Which of an operator's inputs say how much there is to compute, or of what shape an output is.
_SIZED = (
    (
        slice(0, None),
        """
        BlackmanWindow ConstantOfShape HammingWindow HannWindow MelWeightMatrix NonZero Range Unique
        """,
    ),
    (
        slice(1, None),
        """
        AffineGrid CenterCropPad Col2Im Compress DFT Expand OneHot Pad ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize
        STFT SequenceAt SequenceErase Slice Split SplitToSequence Squeeze Tile TopK Unsqueeze Upsample
        """,
    ),
    (slice(2, None), "SequenceInsert"),
    (slice(4, 5), "DynamicQuantizeLSTM GRU LSTM RNN"),  # the sequences' lengths
    (slice(6, 7), "Attention"),  # those of what a cache holds
    (slice(8, 9), "MultiHeadAttention"),
)

NONE: Final = slice(0)
SIZES: Final[Mapping[str, slice]] = {
    operator: inputs for inputs, operators in _SIZED for operator in operators.split()
}
TIMED_BY_SHAPE: Final = frozenset((_STANDARD + _OF_ONNXRUNTIME).split()) | SIZES.keys()
# What they give follows from the shapes of what they are given.
OF_SHAPES: Final = frozenset({"Shape", "Size"})
# What they give is another thing each time, whatever they are given.
RANDOM: Final = frozenset(
    {
        "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike",
    }
)  # fmt: skip
