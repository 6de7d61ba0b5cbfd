"""A sweep without its cluster: what to try, in which order, what came out, and what choosing costs.

`description` is the YAML; `settings` makes checked experiments of it; `proposals` says which come
next; `book` keeps count of them and `journal` writes it down; `outcome` is the table.
"""
