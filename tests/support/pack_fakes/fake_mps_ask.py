"""nvidia-cuda-mps-control without arguments: commands from its input go to the daemon of CUDA_MPS_PIPE_DIRECTORY.

A program of its own with few imports, because it is started often.
"""

import os
import sys
from socket import AF_UNIX, SOCK_STREAM, socket

pipe = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
for line in sys.stdin:
    try:
        with socket(AF_UNIX, SOCK_STREAM) as connection:
            connection.connect(f"{pipe}/control")
            connection.sendall(line.encode())
            while data := connection.recv(4096):
                sys.stdout.write(data.decode())
    except OSError:
        sys.stderr.write("Cannot find MPS control daemon process\n")
        sys.exit(1)
