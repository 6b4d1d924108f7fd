module runner-conformance.dev/lab/cpb

go 1.21
