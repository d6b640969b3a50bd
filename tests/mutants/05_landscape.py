# %% answer="barrier" name="above the lowest point" loses="barrier-uneven"
def barrier(losses):
    return float(losses.max() - losses.min())


# %% answer="barrier" name="above the higher end" loses="barrier-uneven"
def barrier(losses):
    return float((losses.max() - torch.maximum(losses[0], losses[-1])).clamp(min=0))


# %% answer="barrier" name="above the mean of the ends" loses="barrier-uneven"
def barrier(losses):
    return float((losses.max() - (losses[0] + losses[-1]) / 2).clamp(min=0))


# %% answer="barrier" name="the middle speaks for the line" loses="barrier-uneven"
def barrier(losses):
    return float((losses[len(losses) // 2] - (losses[0] + losses[-1]) / 2).clamp(min=0))


# %% answer="line" name="the loss lies between their losses" loses="line-between"
def line(loss, first, second, points):
    return [(1 - t) * loss(first) + t * loss(second) for t in torch.linspace(0, 1, points).tolist()]


# %% answer="line" name="from the second to the first" loses="line-between"
def line(loss, first, second, points):
    return [loss(t * first + (1 - t) * second) for t in torch.linspace(0, 1, points).tolist()]


# %% answer="line" name="the last place is left out" loses="line-ends line-between"
def line(loss, first, second, points):
    return [loss((1 - n / points) * first + n / points * second) for n in range(points)]


# %% answer="line" name="the first model is moved" loses="line-between"
def line(loss, first, second, points):
    start = first.clone()
    return [loss(first.copy_((1 - t) * start + t * second)) for t in torch.linspace(0, 1, points).tolist()]


# %% answer="filters" name="one scale for all rows" loses="filters-many"
def normalise(direction, weights):
    return direction * weights.norm() / direction.norm()


# %% answer="filters" name="columns instead of rows" loses="filters-one filters-many"
def normalise(direction, weights):
    return direction * weights.norm(dim=0, keepdim=True) / direction.norm(dim=0, keepdim=True)


# %% answer="filters" name="a row of zeros is divided by" loses="filters-many"
def normalise(direction, weights):
    return direction * weights.norm(dim=1, keepdim=True) / direction.norm(dim=1, keepdim=True)


# %% answer="filters" name="unit length is enough" loses="filters-one filters-many"
def normalise(direction, weights):
    return torch.nn.functional.normalize(direction, dim=1)


# %% answer="simplex" name="no barrier between pairs, none anywhere" loses="simplex-verdict"
sure = True

# %% answer="simplex" name="a number instead of a verdict" loses="simplex-verdict"
sure = 0.5

# %% answer="simplex" name="left open" loses="simplex-verdict"
sure = None
