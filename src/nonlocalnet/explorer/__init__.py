"""A page on this machine that shows what any video's points attend to: `nonlocalnet explore`."""
