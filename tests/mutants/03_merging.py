# %% answer="merge" name="a sum over copies" loses="merge-values"
def merge(experts):
    return {name: weight.sum(0) for name, weight in experts.items()}


# %% answer="merge" name="the first expert" loses="merge-values"
def merge(experts):
    return {name: weight[0] for name, weight in experts.items()}


# %% answer="merge" name="a shared side divided by M" loses="merge-values"
def merge(experts):
    number = max(len(weight) for weight in experts.values())
    return {name: weight.sum(0) / number for name, weight in experts.items()}


# %% answer="merge" name="the axis of copies is kept" loses="merge-form"
def merge(experts):
    return {name: weight.mean(0, keepdim=True) for name, weight in experts.items()}


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


# %% answer="side" name="the merge is the mean of the routes" loses="side-many"
def bottleneck_gap(downs, ups, x):
    return torch.tensor(0.0)


# %% answer="side" name="the GELU is forgotten" loses="side-many"
def bottleneck_gap(downs, ups, x):
    routes = torch.stack([x @ a.T @ b.T for a in downs for b in ups])
    return (routes.mean(0) - x @ downs.mean(0).T @ ups.mean(0).T).norm()


# %% answer="side" name="pairs only" loses="side-many"
def bottleneck_gap(downs, ups, x):
    gelu = torch.nn.functional.gelu
    routes = torch.stack([gelu(x @ a.T) @ b.T for a, b in zip(downs, ups, strict=False)])
    return (routes.mean(0) - gelu(x @ downs.mean(0).T) @ ups.mean(0).T).norm()


# %% answer="exact" name="merging is ensembling" loses="exact-verdicts"
exact = {"up": True, "down": True, "shared": True, "independent": True, "tied": True}

# %% answer="exact" name="merging is never exact" loses="exact-verdicts"
exact = {"up": False, "down": False, "shared": False, "independent": False, "tied": False}

# %% answer="exact" name="the shared up-projection makes it exact" loses="exact-verdicts"
exact = {"up": True, "down": False, "shared": True, "independent": True, "tied": False}

# %% answer="exact" name="pairs that were trained together merge best" loses="exact-verdicts"
exact = {"up": False, "down": True, "shared": True, "independent": False, "tied": True}


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
