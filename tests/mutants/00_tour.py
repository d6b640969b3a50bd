# %% answer="count" name="M experts cost M at inference" loses="count-mixture"
def adapter_weights(d, r, M, L, share_up):
    down, up = r * d + r, d * r + d
    trained = L * (M * down + (up if share_up else M * up))
    return trained, trained


# %% answer="count" name="sharing is overlooked" loses="count-mixture"
def adapter_weights(d, r, M, L, share_up):
    one = 2 * d * r + d + r
    return L * M * one, L * one


# %% answer="count" name="biases are forgotten" loses="count-one count-mixture"
def adapter_weights(d, r, M, L, share_up):
    down = up = d * r
    return L * (M * down + (up if share_up else M * up)), L * (down + up)


# %% answer="count" name="the down side is shared" loses="count-mixture"
def adapter_weights(d, r, M, L, share_up):
    down, up = r * d + r, d * r + d
    return L * ((down if share_up else M * down) + M * up), L * (down + up)


# %% answer="identity" name="all weights are zero" loses="identity-learns"
def adapter(x, down, up):
    return x + torch.nn.functional.gelu(x @ down.T) @ up.T


def start(d, r, generator):
    return torch.zeros(r, d), torch.zeros(d, r)


# %% answer="identity" name="small random numbers are as good as zero" loses="identity-exact"
def adapter(x, down, up):
    return x + torch.nn.functional.gelu(x @ down.T) @ up.T


def start(d, r, generator):
    return 1e-3 * torch.randn(r, d, generator=generator), 1e-3 * torch.randn(d, r, generator=generator)


# %% answer="identity" name="the input is not added" loses="identity-exact identity-learns"
def adapter(x, down, up):
    return torch.nn.functional.gelu(x @ down.T) @ up.T


def start(d, r, generator):
    return torch.randn(r, d, generator=generator), torch.zeros(d, r)


# %% answer="identity" name="the bend is left out" loses="identity-learns"
def adapter(x, down, up):
    return x + x @ down.T @ up.T


def start(d, r, generator):
    return torch.randn(r, d, generator=generator), torch.zeros(d, r)


# %% answer="interval" name="the plain normal interval, certain at 100 %" loses="interval-edges"
def interval(right, rows):
    half = 1.96 * (right * (1 - right) / rows) ** 0.5
    return right - half, right + half


# %% answer="interval" name="the root of the rows is forgotten" loses="interval-half interval-edges"
def interval(right, rows):
    half = 1.96 * (right * (1 - right)) ** 0.5 / rows
    return right - half, right + half


# %% answer="interval" name="an accuracy is exact" loses="interval-half interval-edges"
def interval(right, rows):
    return right, right


# %% answer="interval" name="borrowed from the library" loses="interval-edges"
def interval(right, rows):
    from adamix_lab.analysis.statistics import wilson

    return wilson(right, rows)


# %% answer="apart" name="the higher number wins" loses="apart-verdict"
told_apart = True

# %% answer="apart" name="a number instead of a verdict" loses="apart-verdict"
told_apart = 0.5

# %% answer="apart" name="left open" loses="apart-verdict"
told_apart = None
