"""Faults, injected: what must hold when processes die, disks fill, files break, clocks jump and devices vanish."""
