"""The page of a run for people: one HTML file with its boards, curves, pictures and caveats, which needs no network."""
