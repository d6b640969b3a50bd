# %% answer="cancel" name="one sign is enough" loses="cancel-product cancel-mean"
def same_update_zero_mean(A, B):
    return -A, B


# %% answer="cancel" name="the same update is the same factors" loses="cancel-mean"
def same_update_zero_mean(A, B):
    return A, B


# %% answer="cancel" name="scaled factors" loses="cancel-mean"
def same_update_zero_mean(A, B):
    return A / 2, 2 * B


# %% answer="cancel" name="zero factors" loses="cancel-product cancel-mean"
def same_update_zero_mean(A, B):
    return 0 * A, 0 * B


# %% answer="gap" name="the mean of products is the product of means" loses="gap-many"
def merge_gap(As, Bs, tied):
    return torch.tensor(0.0)


# %% answer="gap" name="independent sides counted as tied" loses="gap-many"
def merge_gap(As, Bs, tied):
    return ((Bs @ As).mean(0) - Bs.mean(0) @ As.mean(0)).norm()


# %% answer="gap" name="a sum of products" loses="gap-one gap-many"
def merge_gap(As, Bs, tied):
    pairs = Bs @ As if tied else (Bs[:, None] @ As[None]).flatten(0, 1)
    return (pairs.sum(0) - Bs.mean(0) @ As.mean(0)).norm()


# %% answer="gap" name="distances averaged instead of products" loses="gap-many"
def merge_gap(As, Bs, tied):
    pairs = Bs @ As if tied else (Bs[:, None] @ As[None]).flatten(0, 1)
    return (pairs - Bs.mean(0) @ As.mean(0)).norm(dim=(1, 2)).mean()


# %% answer="exact" name="merging is ensembling" loses="exact-verdicts"
exact = {"shared": True, "independent": True, "tied": True}

# %% answer="exact" name="merging is never exact" loses="exact-verdicts"
exact = {"shared": False, "independent": False, "tied": False}

# %% answer="exact" name="pairs that were trained together merge best" loses="exact-verdicts"
exact = {"shared": True, "independent": False, "tied": True}


# %% answer="align" name="order does not matter" loses="align-permuted"
def align(down_a, up_a, down_b, up_b):
    return down_b, up_b


# %% answer="align" name="only the down side is put in order" loses="align-permuted"
def align(down_a, up_a, down_b, up_b):
    return down_b[(down_a @ down_b.T).argmax(1)], up_b


# %% answer="align" name="the inverse order" loses="align-permuted"
def align(down_a, up_a, down_b, up_b):
    order = (down_a @ down_b.T).argmax(0)
    return down_b[order], up_b[:, order]


# %% answer="align" name="sorted by the first weight" loses="align-same align-permuted"
def align(down_a, up_a, down_b, up_b):
    order = down_b[:, 0].argsort()
    return down_b[order], up_b[:, order]
