"""Tables and figures from run folders and arrays, without torch."""
