"""From a particle to its clean volume, and on to what the microscope leaves of it."""

# The command line knows a degradation by its short name only once its module is imported.
import cryoden.simulation.tilt_series  # noqa: F401
