"""`migrl plan`: what a recipe costs and whether it fits, before anything is spent. No torch, no weights.

assumptions   reproduce/plan.yaml                     machine    the GPUs that are planned for
shapes        parameters and cache of a model         workload   samples, prompts, the model
memory        what a stage's process holds at most    costs      what a stage computes, and how long that takes
disk          what it downloads and writes            measured   what is known better than by a formula
checks        lengths that cannot work out            advice     which keys lower a peak
refuse        what cannot fit                         build, print
"""
