"""The converter derives classes from `nn.Module` for model families that are not converted this
way."""


class Module:
    pass
