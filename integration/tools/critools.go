package tools

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// CRITools are the paths of what is built from sigs.k8s.io/cri-tools.
type CRITools struct {
	Crictl, Critest string
	Ginkgo          string // runs critest in parallel
	Version         string // of cri-tools, without the v
}

const (
	criToolsModule = "sigs.k8s.io/cri-tools"
	ginkgoPackage  = "github.com/onsi/ginkgo/v2/ginkgo"
	// pinnedFile holds the one image that critest names by digest. That image cannot be had without internet, and one of the same digest
	// cannot be made, so the digest is replaced by that of ours at build time.
	pinnedFile = "pkg/validate/consts.go"
	// PinnedImage is that image's name.
	PinnedImage = "gcr.io/k8s-staging-cri-tools/test-image-digest"
)

// one line of pinnedFile: testLinuxImageWithDigest = registry + "test-image-digest@sha256:..."
var pinnedLine = regexp.MustCompile(`(?m)^(\s*testLinuxImageWithDigest\s*=\s*registry \+ "test-image-digest@)sha256:[0-9a-f]{64}"`)

// BuildCRITools builds crictl, critest and ginkgo, or finds them in the cache. pinned is the digest of the image that stands for PinnedImage.
func BuildCRITools(ctx context.Context, root, pinned string) (CRITools, error) {
	module := filepath.Join(root, "integration", "tools", "cri-tools")
	key, err := cacheKey(ctx, module, pinned)
	if err != nil {
		return CRITools{}, err
	}
	source, version, err := ModuleSource(ctx, module, criToolsModule)
	if err != nil {
		return CRITools{}, err
	}
	dir, err := keep("cri-tools-"+version+"-"+key, func(draft string) error {
		return buildCRITools(ctx, draft, module, source, version, pinned)
	})
	return CRITools{
		Crictl: filepath.Join(dir, "crictl"), Critest: filepath.Join(dir, "critest"), Ginkgo: filepath.Join(dir, "ginkgo"), Version: version,
	}, err
}

// buildCRITools builds into draft.
func buildCRITools(ctx context.Context, draft, module, source, version, pinned string) error {
	modFile, err := patchModule(draft, module, source, pinned)
	if err != nil {
		return err
	}
	stamp := "-X " + criToolsModule + "/pkg/version.Version=" + version
	for _, b := range []Build{
		{Package: criToolsModule + "/cmd/crictl", Out: "crictl"},
		{Package: criToolsModule + "/cmd/critest", Out: "critest", Test: true, ModFile: modFile},
		{Package: ginkgoPackage, Out: "ginkgo"},
	} {
		b.Dir, b.LDFlags, b.Out = module, stamp, filepath.Join(draft, b.Out)
		if err := b.Run(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(draft, "source")); err != nil {
		return fmt.Errorf("removing the patched source: %w", err)
	}
	return nil
}

// patchModule copies cri-tools' source with the digest replaced (go refuses overlays of the module cache), and writes a go.mod that
// puts the copy in its place, for -modfile.
func patchModule(dir, module, source, pinned string) (string, error) {
	patched := filepath.Join(dir, "source")
	if err := os.CopyFS(patched, os.DirFS(source)); err != nil {
		return "", fmt.Errorf("copying the source of %s: %w", criToolsModule, err)
	}
	file := filepath.Join(patched, pinnedFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading critest's image names: %w", err)
	}
	if n := len(pinnedLine.FindAll(text, -1)); n != 1 {
		return "", fmt.Errorf("replacing critest's pinned image: %d lines of %s match, not 1; look at what the new version pins", n, pinnedFile)
	}
	// Written anew: the module cache's files are read-only, and so may be their copies.
	if err := os.Remove(file); err != nil {
		return "", fmt.Errorf("replacing critest's pinned image: %w", err)
	}
	if err := os.WriteFile(file, pinnedLine.ReplaceAll(text, []byte("${1}"+pinned+`"`)), 0o644); err != nil {
		return "", fmt.Errorf("replacing critest's pinned image: %w", err)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("reading what cri-tools is built from: %w", err)
		}
		if name == "go.mod" {
			data = fmt.Appendf(data, "\nreplace %s => %s\n", criToolsModule, patched)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return "", fmt.Errorf("writing the module file for critest: %w", err)
		}
	}
	return filepath.Join(dir, "go.mod"), nil
}
