"""The mail API and the push service of the demo and of the tests, in a process of their own."""
