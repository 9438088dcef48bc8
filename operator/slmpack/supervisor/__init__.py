"""The supervisor of a pod-local MPS pack: PID 1 of the container, in the user's vLLM image.

It starts an MPS control daemon and then engines, one after another, each with its own memory limit; checks from inside
that each limit is in force; publishes each engine as an endpoint of its own; and ends the pod when the GPU's fault
domain is undefined. Standard library only, Python 3.10 and later, and nothing of slmpack outside this package.
"""
