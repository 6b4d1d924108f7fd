// k3s-certs writes the certificates of a throw-away cluster. The launcher is Python with nothing but its
// standard library, which has no X.509, so this one step is done here.
//
// It reads a specification as JSON from standard input:
//
//	{"dir": "/…/tls", "cas": [{"name": "server-ca", "cn": "…"}],
//	 "certs": [{"name": "client-admin", "ca": "client-ca", "cn": "…", "orgs": [], "sans": []}], "keys": ["service"]}
//
// and writes <name>.crt and <name>.key below dir. Authorities and plain keys that are there already are kept, as
// k3s keeps them over a restart; leaf certificates are made anew.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

type authority struct {
	Name string `json:"name"`
	CN   string `json:"cn"`
}

type leaf struct {
	Name string   `json:"name"`
	CA   string   `json:"ca"`
	CN   string   `json:"cn"`
	Orgs []string `json:"orgs"`
	SANs []string `json:"sans"`
}

type spec struct {
	Dir   string      `json:"dir"`
	CAs   []authority `json:"cas"`
	Certs []leaf      `json:"certs"`
	Keys  []string    `json:"keys"`
}

type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "k3s-certs:", err)
		os.Exit(1)
	}
}

func run() error {
	var s spec
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return fmt.Errorf("reading the specification: %w", err)
	}
	cas := map[string]pair{}
	for _, ca := range s.CAs {
		p, err := ensureAuthority(s.Dir, ca)
		if err != nil {
			return fmt.Errorf("%s: %w", ca.Name, err)
		}
		cas[ca.Name] = p
	}
	for _, l := range s.Certs {
		ca, ok := cas[l.CA]
		if !ok {
			return fmt.Errorf("%s: no authority %q in the specification", l.Name, l.CA)
		}
		if err := issue(s.Dir, l, ca); err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
	}
	for _, name := range s.Keys {
		if _, err := ensureKey(filepath.Join(s.Dir, name+".key")); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func ensureAuthority(dir string, ca authority) (pair, error) {
	certPath := filepath.Join(dir, ca.Name+".crt")
	key, err := ensureKey(filepath.Join(dir, ca.Name+".key"))
	if err != nil {
		return pair{}, err
	}
	if data, err := os.ReadFile(certPath); err == nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return pair{}, fmt.Errorf("%s holds no certificate", certPath)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		return pair{cert, key}, err
	}
	template := newTemplate(ca.CN, nil)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, err
	}
	return pair{cert, key}, writePEM(certPath, 0o644, "CERTIFICATE", der)
}

func issue(dir string, l leaf, ca pair) error {
	key, err := ensureKey(filepath.Join(dir, l.Name+".key"))
	if err != nil {
		return err
	}
	template := newTemplate(l.CN, l.Orgs)
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(l.SANs) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, san := range l.SANs {
		if ip := net.ParseIP(san); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, l.Name+".crt"), 0o644, "CERTIFICATE", der)
}

func newTemplate(cn string, orgs []string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn, Organization: orgs},
		NotBefore:    now.Add(-time.Hour), // a node whose clock is a little behind
		NotAfter:     now.AddDate(1, 0, 0),
	}
}

func ensureKey(path string) (*ecdsa.PrivateKey, error) {
	if data, err := os.ReadFile(path); err == nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("%s holds no key", path)
		}
		return x509.ParseECPrivateKey(block.Bytes)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return key, writePEM(path, 0o600, "EC PRIVATE KEY", der)
}

func writePEM(path string, mode os.FileMode, kind string, der []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
