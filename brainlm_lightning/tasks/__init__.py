"""One room per question, the same file names in each; what they share stands beside them."""
