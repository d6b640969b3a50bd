# %% answer="loss" name="softmax over the batch" loses="loss-value"
def consistency(a, b):
    p, q = a.log_softmax(0), b.log_softmax(0)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


# %% answer="loss" name="a sum over rows" loses="loss-value"
def consistency(a, b):
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum()


# %% answer="loss" name="one direction only" loses="loss-value"
def consistency(a, b):
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


# %% answer="loss" name="divided by rows times classes" loses="loss-value"
def consistency(a, b):
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    kl = torch.nn.functional.kl_div
    return 0.5 * (kl(p, q, log_target=True, reduction="mean") + kl(q, p, log_target=True, reduction="mean"))


# %% answer="loss" name="squared logits instead of probabilities" loses="loss-basics loss-value"
def consistency(a, b):
    return (a - b).square().mean()


# %% answer="loss" name="borrowed from the library" loses="loss-value"
def consistency(a, b):
    from adamix_lab.core.objective import symmetric_kl

    return symmetric_kl(a, b)


# %% answer="gradient" name="detaching changes nothing" loses="gradient-value"
def gradient(a, b):
    a = a.clone().requires_grad_()
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    (0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()).backward()
    return a.grad


# %% answer="gradient" name="the mean over rows is forgotten" loses="gradient-value"
def gradient(a, b):
    return 0.5 * (a.softmax(-1) - b.softmax(-1))


# %% answer="gradient" name="uphill" loses="gradient-value"
def gradient(a, b):
    return 0.5 * (b.softmax(-1) - a.softmax(-1)) / len(a)


# %% answer="gradient" name="not halved" loses="gradient-value"
def gradient(a, b):
    return (a.softmax(-1) - b.softmax(-1)) / len(a)


# %% answer="step" name="one route for both views" loses="step-value"
def step(send, draw, rows, labels, weight):
    first = send(rows, draw())
    return torch.nn.functional.cross_entropy(first, labels) + weight * 0 * first.sum()


# %% answer="step" name="labels on both views" loses="step-value"
def step(send, draw, rows, labels, weight):
    a, b = send(rows, draw()), send(rows, draw())
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    agree = 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
    ce = torch.nn.functional.cross_entropy
    return 0.5 * (ce(a, labels) + ce(b, labels)) + weight * agree


# %% answer="step" name="gradients through the targets" loses="step-value"
def step(send, draw, rows, labels, weight):
    a, b = send(rows, draw()), send(rows, draw())
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    agree = 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
    return torch.nn.functional.cross_entropy(a, labels) + weight * agree


# %% answer="step" name="consistency alone" loses="step-basics step-value"
def step(send, draw, rows, labels, weight):
    p, q = send(rows, draw()).log_softmax(-1), send(rows, draw()).log_softmax(-1)
    return weight * 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


# %% answer="regression" name="KL makes any two outputs agree" loses="regression-value"
kl_of_one_logit = 0.0


def regression_consistency(a, b):
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


# %% answer="regression" name="the absolute difference" loses="regression-value"
kl_of_one_logit = 0.0


def regression_consistency(a, b):
    return (a - b).abs().mean()


# %% answer="regression" name="signs cancel" loses="regression-value"
kl_of_one_logit = 0.0


def regression_consistency(a, b):
    return (a - b).mean() ** 2


# %% answer="regression" name="one class leaves room for disagreement" loses="regression-value"
kl_of_one_logit = 1.0


def regression_consistency(a, b):
    return (a - b).square().mean()


# %% answer="agree" name="routes that agree are right" loses="agree-basics agree-mixed"
def agree_and_wrong(answers, labels):
    return 1 - float((answers == answers[:, :1]).all(1).double().mean())


# %% answer="agree" name="wrong is enough" loses="agree-mixed"
def agree_and_wrong(answers, labels):
    return float((answers[:, 0] != labels).double().mean())


# %% answer="agree" name="all are wrong, each in its way" loses="agree-mixed"
def agree_and_wrong(answers, labels):
    return float((answers != labels[:, None]).all(1).double().mean())
