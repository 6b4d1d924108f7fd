#!/bin/sh
# The official client image's entry point as an observer sees it: options and sub-commands are docker's, and
# without a socket the daemon is looked for at tcp://docker.
set -e
if [ "${1#-}" != "$1" ] || { [ $# -gt 0 ] && docker help "$1" >/dev/null 2>&1; }; then
  set -- docker "$@"
fi
if [ -z "${DOCKER_HOST:-}" ] && [ ! -S /var/run/docker.sock ]; then
  client="${DOCKER_TLS_CERTDIR:-}/client"
  if [ -n "${DOCKER_TLS_CERTDIR:-}" ] && [ -s "$client/ca.pem" ] && [ -s "$client/cert.pem" ] && [ -s "$client/key.pem" ]; then
    export DOCKER_HOST=tcp://docker:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH="$client"
  else
    export DOCKER_HOST=tcp://docker:2375
  fi
fi
exec "$@"
