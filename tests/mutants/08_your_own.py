# %% answer="scaled" name="a vector broadcasts by itself" loses="scaled-views"
def apply_scaled(base, x, w):
    return base(x) + w["s"] * lab.linear(lab.linear(x, w["A"]), w["B"])


# %% answer="scaled" name="the first view's vector serves all" loses="scaled-views"
def apply_scaled(base, x, w):
    s = w["s"] if w["s"].dim() == 1 else w["s"][0]
    return base(x) + s * lab.linear(lab.linear(x, w["A"]), w["B"])


# %% answer="scaled" name="the frozen layer runs twice" loses="scaled-views"
def apply_scaled(base, x, w):
    update = lab.linear(lab.linear(x, w["A"]), w["B"])
    return base(x) + lab.along(update, w["s"]) * update + 0 * base(x)


# %% answer="scaled" name="the whole output is scaled" loses="scaled-one scaled-views"
def apply_scaled(base, x, w):
    y = base(x) + lab.linear(lab.linear(x, w["A"]), w["B"])
    return lab.along(y, w["s"]) * y


# %% answer="weights" name="a mean is 1/M" loses="weights-many"
def peft_weight(M, combination):
    return 1 / M


# %% answer="weights" name="the square everywhere" loses="weights-many"
def peft_weight(M, combination):
    return 1 / M**2


# %% answer="weights" name="the root goes on by hand" loses="weights-many"
def peft_weight(M, combination):
    return M**-0.5 if combination == "linear" else 1 / M


# %% answer="weights" name="each whole" loses="weights-many"
def peft_weight(M, combination):
    return 1.0


# %% answer="alpha" name="alpha goes along" loses="alpha-many"
def exported_lora(As, Bs, alpha):
    M, r, _ = As.shape
    A, B = As.flatten(0, 1), Bs.permute(1, 0, 2).flatten(1) / M
    return {"lora_A": A, "lora_B": B, "r": M * r, "lora_alpha": alpha}


# %% answer="alpha" name="the rank stays" loses="alpha-many"
def exported_lora(As, Bs, alpha):
    M, r, _ = As.shape
    A, B = As.flatten(0, 1), Bs.permute(1, 0, 2).flatten(1) / M
    return {"lora_A": A, "lora_B": B, "r": r, "lora_alpha": alpha}


# %% answer="alpha" name="alpha becomes the scale" loses="alpha-one alpha-many"
def exported_lora(As, Bs, alpha):
    M, r, _ = As.shape
    A, B = As.flatten(0, 1), Bs.permute(1, 0, 2).flatten(1) / M
    return {"lora_A": A, "lora_B": B, "r": M * r, "lora_alpha": alpha / r}


# %% answer="alpha" name="the mean of factors" loses="alpha-many"
def exported_lora(As, Bs, alpha):
    return {"lora_A": As.mean(0), "lora_B": Bs.mean(0), "r": As.shape[1], "lora_alpha": alpha}


# %% answer="alpha" name="not divided by M" loses="alpha-many"
def exported_lora(As, Bs, alpha):
    M, r, _ = As.shape
    A, B = As.flatten(0, 1), Bs.permute(1, 0, 2).flatten(1)
    return {"lora_A": A, "lora_B": B, "r": M * r, "lora_alpha": M * alpha}


# %% answer="export" name="whatever was trained can be exported" loses="export-cannot"
exportable = {name: True for name in ("merged-lora", "bottleneck", "random-routes", "own", "products", "no-head")}

# %% answer="export" name="a merged adapter is the whole model" loses="export-cannot"
exportable = {
    "merged-lora": True,
    "bottleneck": False,
    "random-routes": False,
    "own": False,
    "products": True,
    "no-head": True,
}

# %% answer="export" name="tied pairs have no single LoRA" loses="export-can"
exportable = {
    "merged-lora": True,
    "bottleneck": False,
    "random-routes": False,
    "own": False,
    "products": False,
    "no-head": False,
}

# %% answer="export" name="merging makes anything a LoRA" loses="export-cannot"
exportable = {
    "merged-lora": True,
    "bottleneck": True,
    "random-routes": False,
    "own": True,
    "products": True,
    "no-head": False,
}
