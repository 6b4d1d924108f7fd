module runner-conformance.dev/lab/k3s-certs

go 1.21
