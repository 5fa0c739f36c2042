"""`migrl plan`: what a recipe costs and whether it fits, before anything is spent. No torch, no weights.

assumptions   reproduce/plan.yaml                     machine    the GPUs that are planned for
shapes        parameters and cache of a model         workload   samples, prompts, the model
work          what a stage generates and trains on    costs      FLOPs and bytes, and how long they take
memory        what a process holds, by formulas       times      the hours of a stage, by its engine
peak          the most that a stage holds             lengths    how long prompts are
disk          what it downloads and writes            measured   what is known better than by a formula
checks        lengths that cannot work out            advice     which keys lower a peak
refuse        what cannot fit                         build, print
"""
