#!/bin/sh
# ResNet-20 on CIFAR-10 from its published checkpoint (91.73 %): the fewest MACs within 0.7 points, in an hour on two cores.
# The same command goes on after a kill.
# Further arguments, such as --jobs 2, are passed on. One seed: the interval is that of the 10,000 test images.
# There is no control from scratch: base training is left out (train.epochs is 0).
set -eu
exec prunelab search --max-drop "${MAX_DROP:-0.7}" --within "${WITHIN:-60m}" \
  --set dataset=cifar10 --set model=resnet20 --set weights=data/raw/resnet20-12fca82f.th --set 'seeds=[0]' \
  --set 'data.normalise={mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}' \
  --set data.crop_padding=4 --set data.flip=true \
  --set train.epochs=0 --set finetune.batch_size=128 --set finetune.learning_rate=0.01 \
  --set runtime.bits=native --set runtime.threads=2 \
  --set search.tries=16 --set search.epochs=2 --set search.first_epochs=1 --set search.reduction=2 \
  --set 'search.ratio={low: 0.1, high: 0.6}' --set 'search.learning_rate={low: 0.002, high: 0.05}' \
  --set 'search.final_seeds=[1000]' --set search.runners_up=1 "$@"
