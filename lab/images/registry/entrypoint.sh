#!/bin/sh
# A configuration file alone means "serve it"; a sub-command of registry is passed on; anything else is run.
set -e
case "$1" in
  *.yml | *.yaml) exec registry serve "$@" ;;
  serve | garbage-collect | help | -*) exec registry "$@" ;;
esac
exec "$@"
