"""From a particle to its clean volume, and on to what the microscope leaves of it."""
