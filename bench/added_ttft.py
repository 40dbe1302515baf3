"""What gateway and tokenizer add to the time to the first token."""

from __future__ import annotations

from bench import client, stats
from bench.processes import Stack
from bench.report import Row, Section, at_most

_QUESTION = "What is a BM1684X?"
_WARM_UP = 50
_PER_ROUND = 50

METHOD = (
    "An idle system whose device computes nothing. One-token chat requests, one after another over "
    "one gRPC connection, in rounds that alternate with submissions of the same prompt straight to "
    "the device's session. TTFT is the client's, from call to first token; added is the difference "
    "of the two distributions at the same quantile, so it holds the client's own second stream."
)


async def run(stack: Stack, rounds: int) -> Section:
    request = client.chat_request(_QUESTION, 1)
    through: list[float] = []
    direct: list[float] = []
    async with (
        client.gateway(stack.address) as gateway,
        client.device(stack.device_address) as device,
    ):
        prompt_ids = await gateway.prompt_ids(request)
        for _ in range(_WARM_UP):
            await gateway.chat(request)
            await device.first_token_s(prompt_ids)
        for _ in range(rounds):
            for _ in range(_PER_ROUND):
                through.append((await gateway.chat(request)).ttft_s * 1e3)
            for _ in range(_PER_ROUND):
                direct.append(await device.first_token_s(prompt_ids) * 1e3)
    return Section("added_ttft", "Added time to first token", METHOD, _rows(through, direct))


def _rows(through: list[float], direct: list[float]) -> tuple[Row, ...]:
    whole, bare = stats.summary(through), stats.summary(direct)
    return (
        Row("requests", whole.count, ""),
        Row("TTFT through gateway, p50", whole.p50, "ms"),
        Row("TTFT through gateway, p99", whole.p99, "ms"),
        Row("device alone, p50", bare.p50, "ms"),
        Row("device alone, p99", bare.p99, "ms"),
        at_most("added, p50", whole.p50 - bare.p50, "ms", 3),
        at_most("added, p99", whole.p99 - bare.p99, "ms", 10),
    )
