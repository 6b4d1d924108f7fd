#!/bin/sh
# Starts dockerd in a container as the official dind image does: on the socket, and on 2376 with certificates
# under $DOCKER_TLS_CERTDIR, or on 2375 without when that is empty.
set -e

# certificate NAME SUBJECT EXTENSIONS: a key and a certificate signed by the CA, unless they are there
certificate() {
  folder="$DOCKER_TLS_CERTDIR/$1"
  mkdir -p "$folder"
  cp "$DOCKER_TLS_CERTDIR/ca/cert.pem" "$folder/ca.pem"
  [ -s "$folder/cert.pem" ] && return
  openssl req -new -newkey rsa:2048 -nodes -keyout "$folder/key.pem" -out "$folder/csr.pem" -subj "/CN=$2" 2>/dev/null
  printf '%b' "$3" > "$folder/extensions"
  openssl x509 -req -in "$folder/csr.pem" -CA "$folder/ca.pem" -CAkey "$DOCKER_TLS_CERTDIR/ca/key.pem" \
    -CAcreateserial -days 825 -extfile "$folder/extensions" -out "$folder/cert.pem" 2>/dev/null
}

make_certificates() {
  mkdir -p "$DOCKER_TLS_CERTDIR/ca"
  if [ ! -s "$DOCKER_TLS_CERTDIR/ca/cert.pem" ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 825 -subj "/CN=docker:dind CA" \
      -keyout "$DOCKER_TLS_CERTDIR/ca/key.pem" -out "$DOCKER_TLS_CERTDIR/ca/cert.pem" 2>/dev/null
  fi
  names="DNS:localhost,DNS:docker,DNS:$(cat /etc/hostname)"
  for address in $(ip -oneline addr | awk '{ split($4, a, "/"); print a[1] }'); do
    names="$names,IP:$address"
  done
  certificate server "docker:dind server" "subjectAltName=$names\nextendedKeyUsage=serverAuth\n"
  certificate client "docker:dind client" "extendedKeyUsage=clientAuth\n"
}

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
  set -- dockerd --host=unix:///var/run/docker.sock "$@"
  if [ -n "${DOCKER_TLS_CERTDIR:-}" ]; then
    make_certificates
    server="$DOCKER_TLS_CERTDIR/server"
    set -- "$@" --host=tcp://0.0.0.0:2376 --tlsverify \
      --tlscacert "$server/ca.pem" --tlscert "$server/cert.pem" --tlskey "$server/key.pem"
  else
    set -- "$@" --host=tcp://0.0.0.0:2375 --tls=false
  fi
fi
if [ "$1" = dockerd ]; then
  # a pid file of an earlier life of this container would stop the daemon from starting
  find /run /var/run -iname 'docker*.pid' -delete 2>/dev/null || true
  mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security 2>/dev/null || true
  exec docker-init -- "$@"
fi
exec docker-entrypoint.sh "$@"
