// One script and one style sheet, next to the other static files of the portal.
import { defineConfig } from "vite";

export default defineConfig({
  build: {
    outDir: process.env.VIEWER_OUT ?? "../static",
    emptyOutDir: false,
    copyPublicDir: false,
    modulePreload: false,
    target: "es2022",
    license: { fileName: "viewer.licences.md" },
    rollupOptions: {
      input: "src/main.ts",
      output: { entryFileNames: "viewer.js", assetFileNames: "viewer[extname]", codeSplitting: false },
    },
  },
});
