"""A local web page that shows what the points of any video attend to: `nonlocalnet explore`."""
