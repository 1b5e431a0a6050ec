"""ODE solvers, one a file."""
