"""What the OpenAPI document promises, held by requests that are drawn from it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

pytest.importorskip("fastapi", reason="the extra view is not installed")

from semdrivers.remote import LEASE_HEADER
from semfocus_plugin.server import sharing

ENDLESS = "/api/events"
TOKEN = "0123456789abcdef"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
UNHURRIED = settings(
    max_examples=3,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
EXHAUSTIVE = settings(UNHURRIED, max_examples=25)


def hold(examples):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    with sharing("emulator://featureless?seed=1&magnification=2000", port=0, token=TOKEN) as server:
        desk = server.desk
        schema = schemathesis.openapi.from_url(f"{server.page}api/openapi.json", headers=AUTHORISED).exclude(
            path=ENDLESS
        )
        operations = [each.ok() for each in schema.get_all_operations()]
        for operation in operations:

            @examples
            @given(case=operation.as_strategy())
            def holds(case):
                case.headers = {**(case.headers or {}), **AUTHORISED, LEASE_HEADER: desk.take("the tests", force=True)}
                # A well-formed value may still be beyond a limit of the instrument.
                case.validate_response(case.call(timeout=60), excluded_checks=[positive_data_acceptance])
                if desk.run is not None:
                    desk.run.cancel.set()
                    desk.run.wait(10**6, 60)

            holds()
        return [operation.label for operation in operations]


@pytest.mark.slow
def test_answers_are_as_described_and_never_a_fault_of_the_server():
    called = hold(UNHURRIED)
    for name in ("PUT /api/working_distance", "POST /api/frames", "POST /api/autofocus", "POST /api/move_stage"):
        assert name in called


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_answers_are_as_described():
    hold(EXHAUSTIVE)
