"""The console: the pipeline and its failures in a browser. Only this package imports the web framework."""
