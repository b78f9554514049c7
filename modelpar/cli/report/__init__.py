"""``modelpar report``: one page that shows a run, or two side by side, from what their directories hold."""
