"""Pages and pictures to look at: one small template each, no network, no script."""
