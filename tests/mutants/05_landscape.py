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


# %% answer="plane" name="the projection is not divided by the width" loses="plane-any"
def plane(a, b, c):
    to_b, to_c = b - a, c - a
    width = float(to_b.norm())
    along = float(to_c @ to_b)
    height = float((to_c - along * to_b / (width * width or 1)).norm())
    if width == 0 or height <= 1e-6 * float(max(to_b.norm(), to_c.norm())):
        raise ValueError("on one line")
    return width, along, height


# %% answer="plane" name="any three models span a plane" loses="plane-refused"
def plane(a, b, c):
    to_b, to_c = b - a, c - a
    width = float(to_b.norm()) or 1.0
    along = float(to_c @ to_b) / width
    return width, along, float((to_c - along * to_b / width).norm())


# %% answer="plane" name="the height is the distance" loses="plane-any plane-refused"
def plane(a, b, c):
    to_b, to_c = b - a, c - a
    width = float(to_b.norm())
    if width == 0:
        raise ValueError("on one line")
    return width, float(to_c @ to_b) / width, float(to_c.norm())


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
