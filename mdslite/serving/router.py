"""Which version answers a predict URL. Owns the routes and their cycles; loads and drains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import gcd
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

import numpy as np

from mdslite.errors import NotFound, StillLoading, Unavailable
from mdslite.serving.targeting import Selector

CYCLE_MAX = 10_000


class Target(Protocol):
    """What a route may lead to."""

    project: str
    model: str
    version: str


T = TypeVar("T", bound=Target)


class Share(Generic[T]):
    """A version that gets a copy of so many percent of a route's requests, evenly spread."""

    __slots__ = ("_credit", "_percent", "target")

    def __init__(self, target: T, percent: float) -> None:
        self.target = target
        self._percent = percent
        self._credit = 0.0

    def due(self) -> bool:
        """Is the next request to be copied?"""
        self._credit += self._percent
        if self._credit < 100.0:
            return False
        self._credit -= 100.0
        return True


class Route(Generic[T]):
    """One predict URL. `pick` is the whole of routing on the hot path: one list access."""

    __slots__ = (
        "_at", "_back_in_s", "_cycle", "_length", "_states",
        "model", "project", "selector", "shadows", "url", "version",
    )  # fmt: skip

    def __init__(
        self,
        project: str,
        model: str,
        version: str | None,
        cycle: Sequence[T],
        *,
        shadows: Sequence[Share[T]] = (),
        selector: Selector[T] | None = None,
        back_in_s: Callable[[], float] = lambda: 1.0,
        states: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._back_in_s = back_in_s  # when to ask again where none is ready
        self._states = states  # of its versions
        self.selector = selector  # asked before `pick`, where requests may choose by themselves
        self.shadows = shadows  # what copies its requests once they are answered
        self.project = project
        self.model = model
        self.version = version
        self.url = predict_url(project, model, version)
        self._cycle = list(cycle)
        self._length = len(self._cycle)
        self._at = 0

    def pick(self) -> T:
        """The version that takes the next request.

        :raises Unavailable: none is ready
        """
        at = self._at
        if at >= self._length:
            at = 0
            if not self._length:
                raise self._why_not()
        self._at = at + 1
        return self._cycle[at]

    def _why_not(self) -> Unavailable:
        name = f"{self.project}/{self.model}"
        loading = [version for version, state in self._states.items() if state == "loading"]
        unloaded = [version for version, state in self._states.items() if state == "unloaded"]
        if self.version is not None:
            state = "is still loading" if loading else "was unloaded" if unloaded else "is not ready"
            message, hint = f"{name} {self.version} {state}", f"mdslite show {name}@{self.version}"
        else:
            message, hint = f"no version of {name} is ready to take its traffic", f"mdslite ls {name}"
            if loading:
                message += f": loading are {', '.join(loading)}"
            elif unloaded:
                message += f": unloaded are {', '.join(unloaded)}"
        if unloaded and not loading:
            hint = f"mdslite load {name}"
        kind = StillLoading if loading else Unavailable
        return kind(message, hint=hint, retry_after_s=self._back_in_s())


class InferRoute(Route[T]):
    """A route by its URL in the Open Inference Protocol. It takes its turns from the predict URL's."""

    __slots__ = ("pick",)

    def __init__(self, route: Route[T]) -> None:
        super().__init__(
            route.project, route.model, route.version, (), shadows=route.shadows, selector=route.selector
        )
        self.url = infer_url(route.project, route.model, route.version)
        self.pick = route.pick  # type: ignore[method-assign]


class Router(Generic[T]):
    """All routes, replaced as a whole so that a request sees either the old set or the new one."""

    def __init__(self) -> None:
        self.starting = False  # what is to be served from the start on is still being loaded
        self._routes: Mapping[bytes, Route[T]] = {}
        self.get = self._routes.get  # bound once: the door looks a URL up with one call

    def replace(self, routes: Sequence[Route[T]]) -> None:
        every = [*routes, *map(InferRoute, routes)]
        self._routes = {route.url.encode(): route for route in every}
        self.get = self._routes.get

    def find(self, project: str, model: str, version: str | None, *, infer: bool = False) -> Route[T]:
        """The route of a predict URL, or of its URL in the Open Inference Protocol.

        :raises NotFound: naming what does exist
        :raises StillLoading: which is not known yet
        """
        make_url = infer_url if infer else predict_url
        route = self._routes.get(make_url(project, model, version).encode())
        if route is not None:
            return route
        self.require_started(project, model, version)
        siblings = [one for one in self._routes.values() if (one.project, one.model) == (project, model)]
        if siblings:
            versions = {one.version for one in siblings if one.version}
            raise NotFound.version(project, model, str(version), versions)
        models = sorted({f"{one.project}/{one.model}" for one in self._routes.values()})
        known = ", ".join(models[:5]) + (", …" if len(models) > 5 else "")
        raise NotFound(
            f"no model {project}/{model} is deployed: there is {known or 'none'}", hint="mdslite ls"
        )

    def unknown(
        self, project: str, model: str, version: str | None = None, known: Iterable[str] = ()
    ) -> NotFound:
        """What to say of a version or a whole model that is not deployed; `known` are the model's that are.

        :raises StillLoading: that is not known yet
        """
        self.require_started(project, model, version)
        return NotFound.version(project, model, version or "", known)

    def require_started(self, project: str, model: str, version: str | None = None) -> None:
        """Let nobody say yet that something is not deployed which may be among what is still being loaded.

        :raises StillLoading: so it may
        """
        if self.starting:
            label = f"{project}/{model}" if version is None else f"{project}/{model} {version}"
            raise StillLoading(
                f"{label} is not here yet: mdslite was just started, and is still loading what it serves",
                hint="/readyz answers 200 when it is done",
                retry_after_s=1,
            )


def predict_url(project: str, model: str, version: str | None = None) -> str:
    middle = "" if version is None else f"/versions/{version}"
    return f"/projects/{project}/models/{model}{middle}:predict"


def infer_url(project: str, model: str, version: str | None = None) -> str:
    middle = "" if version is None else f"/versions/{version}"
    return f"/v2/models/{project}.{model}{middle}/infer"


def weighted_cycle(weights: Sequence[float]) -> list[int]:
    """One whole cycle of smooth weighted round robin: indexes into `weights`, each as often as its share.

    The algorithm is nginx's (each turn adds its weight to every credit, the largest credit wins and pays the
    total), run once here and replayed for every request. Weights are reduced to the smallest integers of the
    same ratio; a cycle that would be longer than CYCLE_MAX is rounded to that length, which moves a share by
    less than 1/CYCLE_MAX but keeps every weight above 0 in it.
    """
    fractions = [Fraction(repr(float(weight))) for weight in weights]
    total = sum(fractions)
    if not total:
        return []
    scale = 1
    for fraction in fractions:
        scale = scale * fraction.denominator // gcd(scale, fraction.denominator)
    counts = [int(fraction * scale) for fraction in fractions]
    divisor = gcd(*counts)
    counts = [count // divisor for count in counts]
    if sum(counts) > CYCLE_MAX:
        counts = [max(1, round(fraction / total * CYCLE_MAX)) if fraction else 0 for fraction in fractions]
    share = np.array(counts, dtype=np.int64)
    credit = np.zeros(len(counts), dtype=np.int64)
    length = int(share.sum())
    cycle = []
    for _ in range(length):
        credit += share
        winner = int(credit.argmax())
        credit[winner] -= length
        cycle.append(winner)
    return cycle
