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


# %% answer="best" name="the best of five seeds is the result" loses="best-five"
def head_start(n, spread):
    return 0.0


# %% answer="best" name="both report their best" loses="best-five"
def head_start(n, spread):
    tables = np.random.default_rng(0).normal(0.0, spread, (2, 20_000, n))
    return float((tables[0].max(1) - tables[1].max(1)).mean())


# %% answer="best" name="the best is one standard error ahead" loses="best-five best-one"
def head_start(n, spread):
    return spread / math.sqrt(n)


# %% answer="best" name="the best of all tables" loses="best-five best-one"
def head_start(n, spread):
    tables = np.random.default_rng(0).normal(0.0, spread, (2, 20_000, n))
    return float(tables[0].max() - tables[1].mean())
