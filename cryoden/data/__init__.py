"""What Lightning feeds to a module: simulated particles."""
