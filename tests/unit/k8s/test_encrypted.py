"""The component for an encrypted model: the key reaches the device pod, and only it."""

from __future__ import annotations

from pathlib import PurePosixPath

import kubernetes_validate

from tests.support.manifests import K8S, Rendered, argument, container, pod, render


def test_the_device_reads_its_key_from_a_secret() -> None:
    rendered = Rendered("encrypted", render(K8S / "overlays" / "encrypted"))
    for each in rendered.objects:
        kubernetes_validate.validate(each, "1.34", strict=True)
    assert not list(rendered.of_kind("Secret")), "a key is never part of the manifests"
    device = rendered.ours["tpuserve-device"]
    (path,) = argument(device, "--key-file")
    mounts = {m["mountPath"]: m for m in container(device)["volumeMounts"]}
    mount = mounts[str(PurePosixPath(path).parent)]
    assert mount["readOnly"] is True
    volumes = {v["name"]: v for v in pod(device)["volumes"]}
    secret = volumes[mount["name"]]["secret"]
    context = pod(device)["securityContext"]
    assert secret["defaultMode"] == 0o440
    assert context["fsGroup"] == context["runAsGroup"]
    for name, workload in rendered.ours.items():
        uses = [v for v in pod(workload)["volumes"] if "secret" in v]
        assert bool(uses) == (name == "tpuserve-device")
