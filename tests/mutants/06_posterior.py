# %% answer="marginal" name="averaging logits is averaging probabilities" loses="marginal-mixed"
def marginal(logits):
    return logits.mean(1).softmax(-1)


# %% answer="marginal" name="a vote" loses="marginal-basics marginal-mixed"
def marginal(logits):
    return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float().mean(1)


# %% answer="marginal" name="the mean over rows" loses="marginal-basics marginal-mixed"
def marginal(logits):
    return logits.softmax(-1).mean(0)


# %% answer="marginal" name="borrowed from the library" loses="marginal-mixed"
def marginal(logits):
    from adamix_lab.analysis.posterior import marginal as theirs

    return theirs(logits).exp()


# %% answer="split" name="the difference the wrong way round" loses="split-values"
def split(p):
    mean = p.mean(1)
    whole = -(mean * mean.log()).sum(-1)
    expected = -(p * p.log()).sum(-1).mean(1)
    return whole, expected, expected - whole


# %% answer="split" name="bits instead of nats" loses="split-values"
def split(p):
    mean = p.mean(1)
    whole = -(mean * mean.log2()).sum(-1)
    expected = -(p * p.log2()).sum(-1).mean(1)
    return whole, expected, whole - expected


# %% answer="split" name="all doubt is doubt of the routes" loses="split-values"
def split(p):
    expected = -(p * p.log()).sum(-1).mean(1)
    return expected, expected, torch.zeros_like(expected)


# %% answer="split" name="one route speaks for all" loses="split-values"
def split(p):
    mean = p.mean(1)
    whole = -(mean * mean.log()).sum(-1)
    expected = -(p[:, 1] * p[:, 1].log()).sum(-1)
    return whole, expected, whole - expected


# %% answer="ece" name="bins closed on the left" loses="ece-edges"
def calibration_error(confidence, right, bins):
    where = (confidence * bins).long().clamp(max=bins - 1)
    error = 0.0
    for n in range(bins):
        inside = where == n
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].double().mean()
            error += float(inside.double().mean() * gap.abs())
    return error


# %% answer="ece" name="certainty has no bin" loses="ece-edges"
def calibration_error(confidence, right, bins):
    error = 0.0
    for n in range(bins):
        inside = (confidence >= n / bins) & (confidence < (n + 1) / bins)
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].double().mean()
            error += float(inside.double().mean() * gap.abs())
    return error


# %% answer="ece" name="each bin counts alike" loses="ece-edges"
def calibration_error(confidence, right, bins):
    where = torch.bucketize(confidence.double(), torch.linspace(0, 1, bins + 1, dtype=torch.double)[1:-1])
    gaps = [
        abs(float(right[where == n].double().mean() - confidence[where == n].double().mean())) for n in where.unique()
    ]
    return sum(gaps) / len(gaps)


# %% answer="ece" name="too sure and too modest cancel" loses="ece-edges"
def calibration_error(confidence, right, bins):
    return abs(float(right.double().mean() - confidence.double().mean()))


# %% answer="samples" name="more samples reduce the model's error" loses="samples-verdict"
more_samples = "rises"

# %% answer="samples" name="noise adds up" loses="samples-verdict"
more_samples = "falls"

# %% answer="samples" name="left open" loses="samples-verdict"
more_samples = None
