"""Every object is one that the API server of the supported versions would decode strictly."""

from __future__ import annotations

import copy

import kubernetes_validate
import pytest

from tests.support.manifests import K8S, Object, Rendered, render

VERSIONS = ("1.32", "1.34")


@pytest.mark.parametrize("version", VERSIONS)
def test_overlay_is_valid(rendered: Rendered, version: str) -> None:
    for each in rendered.objects:
        _validate(each, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_monitoring_is_valid(version: str) -> None:
    objects = render(K8S / "monitoring")
    assert objects
    for each in objects:
        _validate(each, version)


def test_the_validator_sees_an_unknown_field(rendered: Rendered) -> None:
    broken = copy.deepcopy(dict(rendered.get("StatefulSet", "tpuserve-device")))
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        _validate(broken, VERSIONS[0])


def _validate(each: Object, version: str) -> None:
    # Raises for an invalid object, and also for a kind that has no schema: nothing goes unchecked.
    kubernetes_validate.validate(each, version, strict=True)
