package testbed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certs is an authority of its own with one server and one client certificate,
// in memory and as PEM files.
type Certs struct {
	Pool   *x509.CertPool // the authority
	Server tls.Certificate
	Client tls.Certificate

	CAFile                        string
	ServerCertFile, ServerKeyFile string
	ClientCertFile, ClientKeyFile string
}

// NewCerts makes certificates that are valid for an hour. The server's is for
// the names and IP addresses given, by default 127.0.0.1 and localhost.
func NewCerts(tb testing.TB, names ...string) *Certs {
	tb.Helper()
	if len(names) == 0 {
		names = []string{"127.0.0.1", "localhost"}
	}
	dir := tb.TempDir()
	authority := newCert(tb, certTemplate(1, "testbed authority"), nil)
	server := newCert(tb, certTemplate(2, "testbed server", names...), &authority)
	client := newCert(tb, certTemplate(3, "testbed client"), &authority)

	c := &Certs{Pool: x509.NewCertPool(), Server: server, Client: client}
	c.Pool.AddCert(authority.Leaf)
	c.CAFile, _ = writePEM(tb, dir, "ca", authority)
	c.ServerCertFile, c.ServerKeyFile = writePEM(tb, dir, "server", server)
	c.ClientCertFile, c.ClientKeyFile = writePEM(tb, dir, "client", client)
	return c
}

// ServerConfig returns a configuration that presents the server certificate.
func (c *Certs) ServerConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{c.Server}}
}

// MutualServerConfig returns a ServerConfig that demands a certificate of the
// authority from the client.
func (c *Certs) MutualServerConfig() *tls.Config {
	cfg := c.ServerConfig()
	cfg.ClientCAs = c.Pool
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg
}

// ClientConfig returns a configuration that trusts the authority.
func (c *Certs) ClientConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Pool}
}

// MutualClientConfig returns a ClientConfig that presents the client
// certificate.
func (c *Certs) MutualClientConfig() *tls.Config {
	cfg := c.ClientConfig()
	cfg.Certificates = []tls.Certificate{c.Client}
	return cfg
}

func certTemplate(serial int64, subject string, names ...string) *x509.Certificate {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: subject},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	return t
}

// newCert signs a certificate by the authority, or makes one if that is nil.
func newCert(tb testing.TB, t *x509.Certificate, authority *tls.Certificate) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("making a key: %v", err)
	}
	parent, signer := t, any(key)
	if authority == nil {
		t.IsCA = true
		t.BasicConstraintsValid = true
		t.KeyUsage |= x509.KeyUsageCertSign
	} else {
		parent, signer = authority.Leaf, authority.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		tb.Fatalf("making a certificate: %v", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parsing a certificate: %v", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func writePEM(tb testing.TB, dir, name string, cert tls.Certificate) (certFile, keyFile string) {
	tb.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		tb.Fatalf("encoding a key: %v", err)
	}
	certFile = filepath.Join(dir, name+".crt")
	keyFile = filepath.Join(dir, name+".key")
	writeBlock(tb, certFile, "CERTIFICATE", cert.Certificate[0])
	writeBlock(tb, keyFile, "PRIVATE KEY", key)
	return certFile, keyFile
}

func writeBlock(tb testing.TB, file, kind string, der []byte) {
	tb.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		tb.Fatalf("writing a PEM file: %v", err)
	}
}
