package cluster

import (
	"context"
	_ "embed" // manifests
	"fmt"
	"strconv"
	"strings"
	"time"
)

var (
	//go:embed manifests/rbac.yaml
	rbacManifest string
	//go:embed manifests/coredns.yaml
	dnsManifest string
)

// dnsRepository is how images of CoreDNS are called, without the tag.
const dnsRepository = "registry.k8s.io/coredns/coredns:"

func (c *Cluster) dnsImage() string {
	for name := range c.config.Images {
		if strings.HasPrefix(name, dnsRepository) {
			return name
		}
	}
	return ""
}

// applyManifests asks for what every cluster has.
func (c *Cluster) applyManifests(ctx context.Context) error {
	manifests := rbacManifest
	if image := c.dnsImage(); image != "" {
		replicas := strconv.Itoa(min(2, len(c.nodes)))
		manifests += "---\n" + strings.NewReplacer("IMAGE", image, "REPLICAS", replicas).Replace(dnsManifest)
	}
	_, err := c.KubectlInput(ctx, strings.NewReader(manifests), "apply", "-f", "-")
	return err
}

// awaitAddons returns when names can be asked for.
func (c *Cluster) awaitAddons(ctx context.Context) error {
	if c.dnsImage() == "" {
		c.progress("without DNS: there is no image called %s... to start it from", dnsRepository)
		return nil
	}
	c.progress("waiting for CoreDNS")
	if _, err := c.Kubectl(ctx, "--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout", patience.String()); err != nil {
		pods, _ := c.Kubectl(ctx, "--namespace", "kube-system", "describe", "pods") // for the message alone
		return fmt.Errorf("waiting for CoreDNS: %w\n%s", err, pods)
	}
	c.progress("CoreDNS is ready")
	return nil
}

// routesInterval is short: a node's pods can't be reached before.
const routesInterval = time.Second

// keepRoutes makes every node's address the way to its pods, as a cloud's route controller does.
func (c *Cluster) keepRoutes(ctx context.Context) {
	addresses := map[string]string{}
	for _, node := range c.nodes {
		addresses[node.name] = node.Address()
	}
	made := map[string]string{}
	for ctx.Err() == nil {
		nodes, err := c.api.nodes(ctx) // an API server that is away has no news
		for name, node := range nodes {
			address, ours := addresses[name]
			if err != nil || !ours || node.Spec.PodCIDR == "" || made[name] == node.Spec.PodCIDR {
				continue
			}
			if err := setRoute(node.Spec.PodCIDR, address); err != nil {
				c.progress("%s: %v", name, err)
				continue
			}
			made[name] = node.Spec.PodCIDR
		}
		select {
		case <-ctx.Done():
		case <-time.After(routesInterval):
		}
	}
}
