"""The wrong labels in anybody's images: which they may be, how far to believe it, and one page to look at them."""
