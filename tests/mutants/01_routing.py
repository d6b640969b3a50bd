# %% answer="layer" name="merging averages the answers" loses="layer-merge"
def adapted(x, A, a, B, b, expert=None):
    if expert is None:
        return torch.stack([adapted(x, A, a, B, b, n) for n in range(len(A))]).mean(0)
    return x + torch.nn.functional.gelu(x @ A[expert].T + a[expert]) @ B.T + b


# %% answer="layer" name="the input is not added" loses="layer-expert layer-merge"
def adapted(x, A, a, B, b, expert=None):
    down, bias = (A.mean(0), a.mean(0)) if expert is None else (A[expert], a[expert])
    return torch.nn.functional.gelu(x @ down.T + bias) @ B.T + b


# %% answer="layer" name="the first expert serves always" loses="layer-expert layer-merge"
def adapted(x, A, a, B, b, expert=None):
    return x + torch.nn.functional.gelu(x @ A[0].T + a[0]) @ B.T + b


# %% answer="layer" name="the biases are left out of the merge" loses="layer-merge"
def adapted(x, A, a, B, b, expert=None):
    down, bias = (A.mean(0), 0.0) if expert is None else (A[expert], a[expert])
    return x + torch.nn.functional.gelu(x @ down.T + bias) @ B.T + b


# %% answer="route" name="global random numbers, drawn on the way" loses="route-replay"
def draw_route(counts, seed, step, view):
    counts = torch.tensor(counts)
    return (torch.rand(counts.shape) * counts).long()


# %% answer="route" name="the seed is a sum" loses="route-uniform"
def draw_route(counts, seed, step, view):
    counts = torch.tensor(counts)
    generator = torch.Generator().manual_seed(1000 + seed + step + view)
    return (torch.rand(counts.shape, generator=generator) * counts).long()


# %% answer="route" name="one expert for both sides" loses="route-uniform"
def draw_route(counts, seed, step, view):
    counts = torch.tensor(counts)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step * 1009 + view)
    return (torch.rand(len(counts), 1, generator=generator) * counts).long()


# %% answer="route" name="one expert for all layers" loses="route-uniform"
def draw_route(counts, seed, step, view):
    counts = torch.tensor(counts)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step * 1009 + view)
    return (torch.rand(1, 2, generator=generator) * counts).long()


# %% answer="route" name="the last expert is never drawn" loses="route-uniform"
def draw_route(counts, seed, step, view):
    counts = torch.tensor(counts)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step * 1009 + view)
    return (torch.rand(counts.shape, generator=generator) * (counts - 1).clamp(min=1)).long()


# %% answer="route" name="experts count from one" loses="route-fits route-uniform"
def draw_route(counts, seed, step, view):
    counts = torch.tensor(counts)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step * 1009 + view)
    return (torch.rand(counts.shape, generator=generator) * counts).long() + 1


# %% answer="route" name="borrowed from the library" loses="route-replay"
def draw_route(counts, seed, step, view):
    from adamix_lab.core.routing import RouteSpace, generator_for

    return RouteSpace(tuple(map(tuple, counts))).draw(generator_for(seed, step, view))


# %% answer="number" name="there are as many routes as experts" loses="number-one number-many"
def number_of_routes(counts, tied=False):
    return max(down for down, _ in counts)


# %% answer="number" name="choices of layers are added" loses="number-many"
def number_of_routes(counts, tied=False):
    return sum(max(down, up) if tied else down * up for down, up in counts)


# %% answer="number" name="only the down side counts" loses="number-one number-many"
def number_of_routes(counts, tied=False):
    number = 1
    for down, _ in counts:
        number *= down
    return number


# %% answer="number" name="tied sides count as free ones" loses="number-many"
def number_of_routes(counts, tied=False):
    number = 1
    for down, up in counts:
        number *= down * up
    return number


# %% answer="unused" name="after M steps every expert has had its turn" loses="unused-many"
def chance_unused(M, steps, views):
    return max(0.0, 1 - steps * views / M)


# %% answer="unused" name="two views are one draw" loses="unused-many"
def chance_unused(M, steps, views):
    return (1 - 1 / M) ** steps


# %% answer="unused" name="the chance to be drawn each time" loses="unused-many"
def chance_unused(M, steps, views):
    return (1 / M) ** (steps * views)
