"""Names and numbers that must agree between objects, and that no schema compares."""

from __future__ import annotations

import pytest

from tests.support.manifests import SERVICES, Object, Rendered, argument, container, pod


def _port(workload: Object, name: str) -> int:
    (number,) = (p["containerPort"] for p in container(workload)["ports"] if p["name"] == name)
    assert isinstance(number, int)
    return number


def test_all_services_are_there(rendered: Rendered) -> None:
    assert set(rendered.ours) == set(SERVICES)


def test_selectors_match_their_own_pods_only(rendered: Rendered) -> None:
    for name, workload in rendered.workloads.items():
        selector = workload["spec"]["selector"]["matchLabels"]
        matching = [
            other
            for other, w in rendered.workloads.items()
            if selector.items() <= w["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert matching == [name]


def test_services_reach_one_workload_by_named_ports(rendered: Rendered) -> None:
    for service in rendered.of_kind("Service"):
        selector = service["spec"]["selector"]
        (target,) = (
            w
            for w in rendered.workloads.values()
            if selector.items() <= w["spec"]["template"]["metadata"]["labels"].items()
        )
        named = {p["name"]: p["containerPort"] for p in container(target)["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in named
            assert port["port"] == named[port["targetPort"]]


def test_each_service_has_a_headless_service(rendered: Rendered) -> None:
    headless = {
        s["spec"]["selector"]["app.kubernetes.io/name"]
        for s in rendered.of_kind("Service")
        if s["spec"].get("clusterIP") == "None"
    }
    assert headless == set(SERVICES)


def test_listen_arguments_name_the_container_ports(rendered: Rendered) -> None:
    for name, workload in rendered.ours.items():
        if name == "tpuserve-gateway":
            expected = {"--grpc-listen": "grpc", "--http-listen": "http"}
        else:
            expected = {"--listen": "grpc", "--metrics-listen": "metrics"}
        for flag, port in expected.items():
            assert argument(workload, flag) == [f"0.0.0.0:{_port(workload, port)}"]


def test_prometheus_annotations_name_the_metrics_port(rendered: Rendered) -> None:
    for name, workload in rendered.ours.items():
        annotations = workload["spec"]["template"]["metadata"]["annotations"]
        port = "http" if name == "tpuserve-gateway" else "metrics"
        assert annotations["prometheus.io/port"] == str(_port(workload, port))


def test_gateway_names_every_device_pod(rendered: Rendered) -> None:
    device = rendered.ours["tpuserve-device"]
    headless = rendered.get("Service", device["spec"]["serviceName"])
    # Pods get a name in DNS only from a headless service that selects them.
    assert headless["spec"]["clusterIP"] == "None"
    name, service = device["metadata"]["name"], headless["metadata"]["name"]
    port = _port(device, "grpc")
    expected = [f"{name}-{i}.{service}:{port}" for i in range(device["spec"]["replicas"])]
    assert argument(rendered.ours["tpuserve-gateway"], "--device") == expected


def test_gateway_names_the_tokenizer(rendered: Rendered) -> None:
    tokenizer = rendered.ours["tpuserve-tokenizer"]
    rendered.get("Service", "tpuserve-tokenizer")
    expected = [f"tpuserve-tokenizer:{_port(tokenizer, 'grpc')}"]
    assert argument(rendered.ours["tpuserve-gateway"], "--tokenizer") == expected


def test_device_pods_are_independent(rendered: Rendered) -> None:
    spec = rendered.get("StatefulSet", "tpuserve-device")["spec"]
    # Ordered start would leave every group behind a broken one waiting.
    assert spec["podManagementPolicy"] == "Parallel"


def test_volumes_exist_and_what_is_mounted_from_outside_is_read_only(rendered: Rendered) -> None:
    claims = {c["metadata"]["name"]: c for c in rendered.of_kind("PersistentVolumeClaim")}
    for workload in rendered.ours.values():
        volumes = {v["name"]: v for v in pod(workload)["volumes"]}
        mounts = container(workload)["volumeMounts"]
        assert {m["name"] for m in mounts} == set(volumes)
        for mount in mounts:
            volume = volumes[mount["name"]]
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"]
                continue
            assert mount["readOnly"] is True
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


def test_the_model_claim_binds_to_the_volume(rendered: Rendered) -> None:
    claim = rendered.get("PersistentVolumeClaim", "tpuserve-model")
    volume = rendered.get("PersistentVolume", claim["spec"]["volumeName"])
    assert volume["spec"]["claimRef"] == {
        "name": claim["metadata"]["name"],
        "namespace": claim["metadata"]["namespace"],
    }
    assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadOnlyMany"]
    assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_model_is_read_from_the_mount(rendered: Rendered, name: str) -> None:
    workload = rendered.ours[name]
    mounted = {m["name"]: m["mountPath"] for m in container(workload)["volumeMounts"]}
    expected = [mounted["model"]] if "model" in mounted else []
    assert argument(workload, "--model") == expected
    assert bool(expected) == (name != "tpuserve-gateway")
