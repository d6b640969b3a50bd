# %% answer="paired" name="two groups instead of pairs" loses="paired-constant paired-seeds"
def paired_interval(first, second):
    first, second = np.array(first), np.array(second)
    mean, n = first.mean() - second.mean(), len(first)
    half = t.ppf(0.975, 2 * n - 2) * math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / n)
    return mean, mean - half, mean + half


# %% answer="paired" name="1.96 always serves" loses="paired-seeds"
def paired_interval(first, second):
    gaps = np.array(first) - np.array(second)
    half = 1.96 * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


# %% answer="paired" name="a spread with ddof 0" loses="paired-seeds"
def paired_interval(first, second):
    gaps = np.array(first) - np.array(second)
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std() / math.sqrt(len(gaps))
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


# %% answer="paired" name="where seeds lie instead of their mean" loses="paired-seeds"
def paired_interval(first, second):
    gaps = np.array(first) - np.array(second)
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1)
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


# %% answer="paired" name="borrowed from the library" loses="paired-seeds"
def paired_interval(first, second):
    from adamix_lab.analysis.statistics import t_interval

    found = t_interval([a - b for a, b in zip(first, second, strict=True)])
    return found.mean, found.low, found.high


# %% answer="smallest" name="two models, two sets of rows" loses="smallest-points smallest-root"
def smallest_difference(rows, disagree):
    return 196 * math.sqrt(2 * 0.25 / rows)


# %% answer="smallest" name="variance of a share" loses="smallest-points"
def smallest_difference(rows, disagree):
    return 196 * math.sqrt(disagree * (1 - disagree) / rows)


# %% answer="smallest" name="no root" loses="smallest-points smallest-root"
def smallest_difference(rows, disagree):
    return 196 * disagree / rows


# %% answer="smallest" name="one row is what can be seen" loses="smallest-points smallest-root"
def smallest_difference(rows, disagree):
    return 100 / rows


# %% answer="budget" name="all runs in one pot" loses="budget-compute"
def winner(rows, budget):
    adamix = {row["seed"]: row["score"] for row in rows if row["variant"] == "AdaMix"}
    single = {row["seed"]: row["score"] for row in rows if row["variant"] == "single"}
    gaps = np.array([adamix[seed] - single[seed] for seed in adamix if seed in single])
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    if abs(gaps.mean()) <= half:
        return "not decided"
    return "AdaMix" if gaps.mean() > 0 else "single"


# %% answer="budget" name="the higher mean wins" loses="budget-compute"
def winner(rows, budget):
    adamix = [row["score"] for row in rows if row["variant"] == "AdaMix"]
    single = [row["score"] for row in rows if row["variant"] == "single" and row["budget"] == budget]
    return "AdaMix" if np.mean(adamix) > np.mean(single) else "single"


# %% answer="budget" name="AdaMix needs rows at equal compute" loses="budget-compute"
def winner(rows, budget):
    chosen = [row for row in rows if row["budget"] == budget]
    adamix = {row["seed"]: row["score"] for row in chosen if row["variant"] == "AdaMix"}
    single = {row["seed"]: row["score"] for row in chosen if row["variant"] == "single"}
    gaps = np.array([adamix[seed] - single[seed] for seed in adamix if seed in single])
    if len(gaps) < 2:
        return "not decided"
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    if abs(gaps.mean()) <= half:
        return "not decided"
    return "AdaMix" if gaps.mean() > 0 else "single"


# %% answer="budget" name="two groups instead of pairs" loses="budget-compute budget-steps"
def winner(rows, budget):
    adamix = np.array([row["score"] for row in rows if row["variant"] == "AdaMix"])
    single = np.array([row["score"] for row in rows if row["variant"] == "single" and row["budget"] == budget])
    mean, n = adamix.mean() - single.mean(), len(adamix)
    half = t.ppf(0.975, 2 * n - 2) * math.sqrt((adamix.var(ddof=1) + single.var(ddof=1)) / n)
    if abs(mean) <= half:
        return "not decided"
    return "AdaMix" if mean > 0 else "single"


# %% answer="slow" name="the same rate everywhere" loses="slow-rate"
def slow_groups(named, side, lr, M):
    return [{"params": list(named.values()), "lr": lr}]


# %% answer="slow" name="the other side is slow" loses="slow-rate"
def slow_groups(named, side, lr, M):
    slow = [tensor for name, tensor in named.items() if side not in name]
    rest = [tensor for name, tensor in named.items() if side in name]
    return [{"params": slow, "lr": lr / M}, {"params": rest, "lr": lr}]


# %% answer="slow" name="everything is slow" loses="slow-rate"
def slow_groups(named, side, lr, M):
    return [{"params": list(named.values()), "lr": lr / M}]


# %% answer="slow" name="the head is forgotten" loses="slow-all slow-rate"
def slow_groups(named, side, lr, M):
    slow = [tensor for name, tensor in named.items() if side in name]
    rest = [tensor for name, tensor in named.items() if side not in name and name != "head"]
    return [{"params": slow, "lr": lr / M}, {"params": rest, "lr": lr}]


# %% answer="average" name="the whole run" loses="average-last"
def average_weights(steps, share):
    return {name: sum(weights[name] for weights in steps) / len(steps) for name in steps[0]}


# %% answer="average" name="the first steps" loses="average-last"
def average_weights(steps, share):
    first = steps[: max(1, round(share * len(steps)))]
    return {name: sum(weights[name] for weights in first) / len(first) for name in first[0]}


# %% answer="average" name="the last step alone" loses="average-last"
def average_weights(steps, share):
    return steps[-1]


# %% answer="average" name="divided by all steps" loses="average-last average-still"
def average_weights(steps, share):
    last = steps[-max(1, round(share * len(steps))) :]
    return {name: sum(weights[name] for weights in last) / len(steps) for name in last[0]}
