"""What Pod Security calls restricted, plus limits, for every pod that runs our code."""

from __future__ import annotations

import json

from tests.support.manifests import Object, Rendered, argument, container, pod


def test_pods_run_without_privileges(rendered: Rendered) -> None:
    for workload in rendered.ours.values():
        context = pod(workload)["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["runAsGroup"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(workload)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            assert field not in pod(workload)


def test_only_the_chip_plugin_is_privileged(rendered: Rendered) -> None:
    privileged = {
        name
        for name, workload in rendered.workloads.items()
        if container(workload)["securityContext"].get("privileged")
    }
    assert privileged == ({"tpuserve-chip-plugin"} if rendered.overlay == "pcie" else set())


def test_pods_get_no_api_token(rendered: Rendered) -> None:
    accounts = {a["metadata"]["name"]: a for a in rendered.of_kind("ServiceAccount")}
    for name, workload in rendered.workloads.items():
        assert pod(workload)["serviceAccountName"] == name
        assert pod(workload)["automountServiceAccountToken"] is False
        assert accounts[name]["automountServiceAccountToken"] is False


def test_requests_and_limits_are_set(rendered: Rendered) -> None:
    for workload in rendered.workloads.values():
        resources = container(workload)["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]


def test_chips_keep_the_numbers_of_the_host(rendered: Rendered) -> None:
    device = rendered.ours["tpuserve-device"]
    limits = container(device)["resources"]["limits"]
    chips = [name for name in limits if name.startswith("sophgo.com/")]
    if rendered.overlay != "pcie":
        assert chips == []
        return
    groups = _chip_groups(rendered.workloads["tpuserve-chip-plugin"])
    (resource,) = chips
    (devices,) = argument(device, "--devices")
    assert resource == "sophgo.com/chips-" + devices.replace(",", "-")
    expected = [f"/dev/bm-sophon{chip}" for chip in devices.split(",")] + ["/dev/bmdev-ctl"]
    assert groups[resource] == expected


def _chip_groups(plugin: Object) -> dict[str, list[str]]:
    """Resource name to the device nodes of its one group."""
    (domain,) = argument(plugin, "--domain")
    found = {}
    for text in argument(plugin, "--device"):
        kind = json.loads(text)
        (group,) = kind["groups"]
        # A mountPath would rename the node, a count would share the chips.
        assert set(group) == {"paths"}
        assert all(set(path) == {"path"} for path in group["paths"])
        found[f"{domain}/{kind['name']}"] = [path["path"] for path in group["paths"]]
    return found
