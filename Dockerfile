# docker build -t maft .
# docker run --rm --gpus all -v "$PWD:/work" maft predict photo.jpg --model maft-vitb16 --words cat sofa
#
# The wheels of torch bring CUDA; the host needs the driver and NVIDIA's container toolkit. Without a GPU the same image
# runs on the CPU.
FROM python:3.12-slim

RUN useradd --create-home user
COPY --chown=user . /src
RUN pip install --no-cache-dir "/src[app]" && maft doctor --fix && rm -rf /src

USER user
WORKDIR /work
ENV XDG_CACHE_HOME=/home/user/.cache
# What the build cannot tell: whether the installed parts fit together for this user.
RUN maft doctor
ENTRYPOINT ["maft"]
CMD ["--help"]
