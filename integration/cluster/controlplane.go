package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// makeCertificates writes everything of the control plane's below pki: three authorities, so that a certificate for one door opens no other.
func (c *Cluster) makeCertificates() error {
	dir := c.path("pki")
	if err := os.MkdirAll(dir, 0o711); err != nil { // keys are open to their owners alone
		return fmt.Errorf("making the directory of certificates: %w", err)
	}
	var err error
	if c.authority, err = newAuthority(dir, "ca"); err != nil {
		return err
	}
	etcd, err := newAuthority(dir, "etcd-ca")
	if err != nil {
		return err
	}
	front, err := newAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	local := []string{"localhost", "127.0.0.1"}
	for _, wanted := range []struct {
		by *authority
		subject
	}{
		{etcd, subject{file: "etcd", name: "etcd", hosts: local}},
		{etcd, subject{file: "apiserver-etcd-client", name: "kube-apiserver"}},
		{front, subject{file: "front-proxy-client", name: "front-proxy-client"}},
		{c.authority, subject{file: "apiserver", name: "kube-apiserver", hosts: append([]string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + dnsDomain, apiService, rackAddress}, local...)}},
		{c.authority, subject{file: "apiserver-kubelet-client", name: kubeletClient}},
		{c.authority, subject{file: "admin", name: "kubernetes-admin", groups: []string{"system:masters"}}},
		{c.authority, subject{file: "controller-manager", name: "system:kube-controller-manager", hosts: append([]string{rackAddress}, local...)}},
		{c.authority, subject{file: "scheduler", name: "system:kube-scheduler", hosts: append([]string{rackAddress}, local...)}},
		{c.authority, subject{file: "kube-proxy", name: "system:kube-proxy"}},
	} {
		if err := wanted.by.issue(wanted.subject); err != nil {
			return err
		}
	}
	if err := newServiceAccountKey(dir); err != nil {
		return err
	}
	for _, user := range []string{"admin", "controller-manager", "scheduler", "kube-proxy"} {
		if err := writeKubeconfig(c.kubeconfig(user), apiURL, dir, user); err != nil {
			return err
		}
	}
	return c.handOver(dir)
}

// handOver gives the control plane's files to the user that it runs as. The administrator's stay root's.
func (c *Cluster) handOver(pki string) error {
	entries, err := os.ReadDir(pki)
	if err != nil {
		return fmt.Errorf("handing over certificates: %w", err)
	}
	for _, dir := range []string{"etcd", "apiserver"} {
		if err := errors.Join(os.MkdirAll(c.path(dir), 0o700), os.Chown(c.path(dir), c.user, c.user)); err != nil {
			return fmt.Errorf("making the control plane's directories: %w", err)
		}
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "admin.") {
			continue
		}
		if err := os.Chown(filepath.Join(pki, entry.Name()), c.user, c.user); err != nil {
			return fmt.Errorf("handing over certificates: %w", err)
		}
	}
	return nil
}

// controlPlaneUser is a user ID of this cluster's own for its control plane, which needs no rights. It also has limits of its own: the kernel counts inotify
// instances by user, and a few clusters would use up root's. Where a directory on the way to its files or programs is closed to others, it is root after all.
func controlPlaneUser(dir, programs string) int {
	if !reachable(dir) || !reachable(programs) {
		return 0
	}
	const first, count = 2_000_000, 1_000_000 // beyond what systems and user namespaces give out by default
	sum := sha256.Sum256([]byte(dir))
	return first + int(binary.BigEndian.Uint32(sum[:]))%count
}

// reachable says whether any user can pass through a directory and all above it.
func reachable(dir string) bool {
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if at == "/" {
			return true
		}
	}
}

// kubeletClient is who the API server is to kubelets; manifests/rbac.yaml lets it in.
const kubeletClient = "kube-apiserver-kubelet-client"

const apiURL = "https://" + rackAddress + ":" + apiPort

func (c *Cluster) pki(name string) string { return c.path("pki", name) }

func (c *Cluster) kubeconfig(user string) string { return c.path("pki", user+".kubeconfig") }

func (c *Cluster) etcdArgs() []string {
	return []string{
		"--name=rack", "--data-dir=" + c.path("etcd"),
		"--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379",
		"--listen-peer-urls=https://127.0.0.1:2380", "--initial-advertise-peer-urls=https://127.0.0.1:2380", "--initial-cluster=rack=https://127.0.0.1:2380",
		"--client-cert-auth", "--trusted-ca-file=" + c.pki("etcd-ca.crt"), "--cert-file=" + c.pki("etcd.crt"), "--key-file=" + c.pki("etcd.key"),
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + c.pki("etcd-ca.crt"), "--peer-cert-file=" + c.pki("etcd.crt"), "--peer-key-file=" + c.pki("etcd.key"),
		// Nobody wants this cluster back after a power cut.
		"--unsafe-no-fsync", "--log-level=warn",
	}
}

func (c *Cluster) apiserverArgs() []string {
	return []string{
		"--advertise-address=" + rackAddress, "--secure-port=" + apiPort,
		"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + c.pki("etcd-ca.crt"),
		"--etcd-certfile=" + c.pki("apiserver-etcd-client.crt"), "--etcd-keyfile=" + c.pki("apiserver-etcd-client.key"),
		"--tls-cert-file=" + c.pki("apiserver.crt"), "--tls-private-key-file=" + c.pki("apiserver.key"), "--client-ca-file=" + c.pki("ca.crt"),
		"--kubelet-certificate-authority=" + c.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP,Hostname",
		"--kubelet-client-certificate=" + c.pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + c.pki("apiserver-kubelet-client.key"),
		"--service-account-issuer=https://kubernetes.default.svc." + dnsDomain,
		"--service-account-key-file=" + c.pki("sa.pub"), "--service-account-signing-key-file=" + c.pki("sa.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-cluster-ip-range=" + serviceCIDR,
		"--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + c.pki("front-proxy-client.crt"), "--proxy-client-key-file=" + c.pki("front-proxy-client.key"),
		// No kube-proxy runs beside the control plane: aggregated API servers and webhooks are reached by their pods' addresses.
		"--enable-aggregator-routing",
		"--cert-dir=" + c.path("apiserver"), "--v=2",
	}
}

func (c *Cluster) controllerManagerArgs() []string {
	kubeconfig := c.kubeconfig("controller-manager")
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--use-service-account-credentials", "--controllers=*,bootstrapsigner,tokencleaner",
		"--allocate-node-cidrs", "--cluster-cidr=" + podNetwork, "--service-cluster-ip-range=" + serviceCIDR, "--cluster-name=shimd",
		"--root-ca-file=" + c.pki("ca.crt"), "--service-account-private-key-file=" + c.pki("sa.key"),
		"--cluster-signing-cert-file=" + c.pki("ca.crt"), "--cluster-signing-key-file=" + c.pki("ca.key"),
		"--client-ca-file=" + c.pki("ca.crt"), "--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
		"--tls-cert-file=" + c.pki("controller-manager.crt"), "--tls-private-key-file=" + c.pki("controller-manager.key"), "--v=2",
	}
}

func (c *Cluster) schedulerArgs() []string {
	kubeconfig := c.kubeconfig("scheduler")
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--client-ca-file=" + c.pki("ca.crt"), "--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
		"--tls-cert-file=" + c.pki("scheduler.crt"), "--tls-private-key-file=" + c.pki("scheduler.key"), "--v=2",
	}
}

// startControlPlane returns when the API server says that it is ready.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	c.progress("starting etcd and kube-apiserver")
	if err := c.startRack("etcd", c.etcdArgs()); err != nil {
		return err
	}
	if err := c.startRack("kube-apiserver", c.apiserverArgs()); err != nil {
		return err
	}
	var err error
	if c.api, err = newAPI(apiURL, c.path("pki")); err != nil {
		return err
	}
	if err := c.await(ctx, "kube-apiserver ready", func(ctx context.Context) error { return c.api.get(ctx, "/readyz", nil) }); err != nil {
		return err
	}
	c.progress("kube-apiserver is ready; starting kube-controller-manager and kube-scheduler")
	if err := c.startRack("kube-controller-manager", c.controllerManagerArgs()); err != nil {
		return err
	}
	return c.startRack("kube-scheduler", c.schedulerArgs())
}

// startRack starts a program of the control plane.
func (c *Cluster) startRack(name string, args []string) error {
	p := &component{
		name: name, log: c.path("log", name+".log"), init: c.program("nodeinit"), group: systemGroup(cgroupName(c.config.Dir, rackName)),
		user: c.user, path: c.program(name), args: args, report: c.died,
	}
	c.mutex.Lock()
	c.rack = append(c.rack, p)
	c.mutex.Unlock()
	return p.start()
}

func (c *Cluster) program(name string) string { return filepath.Join(c.config.Programs, name) }
