"""Loads the suite's plugins; the fixtures are one module a layer, in fixtures/."""

pytest_plugins = (
    "fixtures.plugin",
    "fixtures.stack_world",
    "fixtures.stack",
    "fixtures.cluster",
    "fixtures.cert_manager",
    "fixtures.olm",
    "fixtures.operator",
)
