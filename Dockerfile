# Training on GPUs: docker build -t nonlocalnet . && docker run --gpus all -v DATA:/data nonlocalnet train --data /data ...
FROM pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime
WORKDIR /opt/nonlocalnet
COPY pyproject.toml README.md LICENSE ./
COPY src src
# torch and torchvision are the image's own
RUN pip install --no-cache-dir '.[coco,hub,tensorboard,parquet]'
# data loaders of many workers share memory: run with --ipc=host or --shm-size 8g
ENTRYPOINT ["nonlocalnet"]
CMD ["--help"]
